"""How a model behaves over a dataset: five measures of its salience, each as published and corrected."""
