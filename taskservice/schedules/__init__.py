"""Schedules: what is launched by the clock, checked and worked out; nothing here sends or waits."""
