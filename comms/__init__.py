"""Words: message files, mailboxes and channels. Knows nothing of the organisation; could be lifted out and used alone."""
