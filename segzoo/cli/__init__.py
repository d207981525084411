"""The command `segzoo` and its sub-commands, one module each.

`commands.COMMANDS` lists them: name, module and one line of help. A sub-command is imported when it is
chosen. A module `segzoo/cli/<name>.py` has:

    def build_parser() -> CommandLine      the options, with nothing imported but `segzoo.cli` and
                                           `segzoo.utils`, so that `--help` and wrong options are fast
    def run(arguments: Namespace) -> int   the work; imports torch, Detectron2 and the rest of segzoo inside,
                                           and returns the exit status
    main = command(build_parser, run)      called with the words of the command line, or None for sys.argv's

A command of more than one file keeps the others in a package beside it, imported by `run`.

All commands share one grammar (`parser.CommandLine`): `--config-file NAME|FILE` or `--model NAME|CHECKPOINT`,
`--weights` (MODEL.WEIGHTS), `--data FILE|FOLDER`, options, and KEY VALUE pairs last; an `--opts` before them
is ignored. `parser.add_check(function)` adds a check of the parsed arguments.

The exit status is 0 for done, 1 when a check found problems, 2 for wrong input, which is explained in one
line: raise `InputError`, or any exception with an attribute `exit_status` whose message is the whole
explanation. Messages that tell the user what to type use `segzoo.utils.commands.command_line`, which knows
how this process was started.

The scripts in tools/ with the names of Detectron2 and of earlier versions are three lines that call
`script.run_script`.
"""
