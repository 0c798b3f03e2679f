"""vlmrl: teach robots from vision-language-model feedback."""

__version__ = "0.1.0"
