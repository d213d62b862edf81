"""Video files and raw pipes as frames, and back; segments of a resumable job."""
