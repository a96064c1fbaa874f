"""What is done to a server one by one: each module has rows of one kind."""
