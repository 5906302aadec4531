"""Bad storage: system calls under the store that fail, fall short, or fail having done their work."""
