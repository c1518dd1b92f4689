"""Chat with OpenAI's open-weight gpt-oss models on your own machine. README.md beside this file is about the code."""

__version__ = "0.1.0"
