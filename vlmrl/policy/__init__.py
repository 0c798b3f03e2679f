"""What maps observations to action chunks."""

from vlmrl.policy.learned import LearnedPolicy as LearnedPolicy
from vlmrl.policy.uniform import UniformPolicy as UniformPolicy
