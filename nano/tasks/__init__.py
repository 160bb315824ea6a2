"""Random tasks in nano's world, each with its right answer: drawings, edits, questions, reflection and conversations."""
