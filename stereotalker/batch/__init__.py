"""What makes a night of clips out of one: checks before it, the gate all work passes, what past nights took."""
