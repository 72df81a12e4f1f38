"""Who is who: people, reserved subjects, and who trains, validates and tests."""
