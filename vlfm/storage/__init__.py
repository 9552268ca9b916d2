"""What every stage shares on disk. No pickle is ever written or read."""
