"""Routes for administrators, passed on to the launcher that has started the gateway."""
