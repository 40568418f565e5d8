"""Words: message files, mailboxes and channels. Knows nothing of the organisation and could be used without it."""
