"""The masked objective: masks, validation, adaptation."""
