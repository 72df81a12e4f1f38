"""What files hold: opened, checked whole, with their breaks marked."""
