//go:build !linux

package main

import "syscall"

// childAttributes keep Ctrl-C on the terminal from reaching the child, which is stopped in order.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
