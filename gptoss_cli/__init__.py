"""Chat with OpenAI's open-weight gpt-oss models on your own machine.

Who imports whom (tests/test_imports.py holds it):

                 cli -- demo
               /  |   \\
        terminal  |   session
              \\   |   /  |   \\
        harmony.events harmony engine
                               |
                           checkpoint
        steering: part of session; errors, settings: below everything
"""

__version__ = "0.1.0"
