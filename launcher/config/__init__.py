"""What the user wrote, typed: recipe, cluster, and the files they come from."""
