//go:build unix && !linux

package stack

import "syscall"

// childAttributes has no parent-death signal here: the closed pipe ends the engine's host.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
