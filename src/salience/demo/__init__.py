"""The demonstrations: real photographs through real classifiers, and two small networks of which one has a secret."""
