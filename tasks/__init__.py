"""What is optimised: a task is a folder with `task.yaml`, a workspace of files and the commands that run and score it."""
