"""Parts that tests share. Real parts at a small size; nothing here replaces what is tested."""
