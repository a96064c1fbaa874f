"""What every interface of the gateway shares."""
