package stack

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gofrs/flock"
)

// lockDir takes the data folder for this process. The kernel gives it back when the process ends,
// however it ends.
func lockDir(dir string) (*flock.Flock, error) {
	path := filepath.Join(dir, "stack.lock")
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	got, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
	}
	if !got {
		pid, _ := os.ReadFile(path)
		return nil, fmt.Errorf("data folder %s is in use by another stack (pid %s): stop it, or set %s to another folder",
			dir, strings.TrimSpace(string(pid)), EnvDataDir)
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		_ = lock.Unlock()
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	return lock, nil
}
