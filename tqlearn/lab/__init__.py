"""What only the notebooks need: figures, explorers, measured results, and the build of the course.

Nothing is imported here, so that ``python -m tqlearn.lab.environment`` can say what is missing.
"""
