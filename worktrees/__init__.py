"""Git for a research organisation: trunk, one branch and worktree an agent, snapshots, clean checkouts, promotions."""
