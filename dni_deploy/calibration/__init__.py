"""What is measured, fitted or brought into one order so that members blend better."""
