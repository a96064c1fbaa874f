"""How clients share the work of a forward pass: used by engines of generators and encoders."""
