"""The command lines of the endpoint's programs, which need no torch: a wrong option is refused at once."""
