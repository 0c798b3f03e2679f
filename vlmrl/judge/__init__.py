"""The built-in judge: pictures of Meta-World's tasks, the training that makes a checkpoint, and its card."""
