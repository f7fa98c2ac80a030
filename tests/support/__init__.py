"""What the test files of one topic share; `helpers` holds what all of them do."""
