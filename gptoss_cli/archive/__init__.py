"""Conversations on disk: one SQLite file that keeps every message, found again by words, exported and removed for good.

recorder   what a chat session calls; the only module that it imports
saving     the recorder that writes to the archive
archive    conversations: list, find, load, fork, rename, remove, check
search     messages by words
export     Markdown, JSON, training data, ChatGPT's format
importing  our JSON and ChatGPT's conversations.json
rows       messages, turns and conversations as rows
database   the file: opening, transactions, damage, backups
schema     tables, index and migrations
"""
