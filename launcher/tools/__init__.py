"""What a person looks with: the plan printed, a debugger's session, runs compared."""
