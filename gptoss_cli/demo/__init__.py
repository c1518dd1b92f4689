"""The built-in demo model. Commit 0b6b585 is the last one that has the program which made its weights."""
