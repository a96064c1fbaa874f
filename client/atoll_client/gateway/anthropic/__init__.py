"""Anthropic's messages, on the chats of ``chat_formats``."""
