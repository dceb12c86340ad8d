"""What is sensitive in a text, what goes out in its place, and how it comes back. Knows texts only."""
