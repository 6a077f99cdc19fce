"""Plans work, batches it, runs it, resumes it. Methods say what they need to know; the engine owns every model call."""
