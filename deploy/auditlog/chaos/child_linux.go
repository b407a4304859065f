package main

import "syscall"

// childAttributes let no child outlive this process, and keep Ctrl-C on the terminal from reaching it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
