"""OpenAI's Responses API, on top of chats, with a store of what was answered."""
