"""The organisation: who works, where they sit, how they meet."""
