"""The tests of the store: a file for each subject, a sentence for each test."""
