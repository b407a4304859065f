package app

import (
	"syscall"
	"testing"
	"time"

	"example.com/auditlog/services/ingester/internal/pipeline"
)

// steps are all points of a flush.
var steps = []pipeline.Step{
	pipeline.StepJudged, pipeline.StepBuried, pipeline.StepAppended, pipeline.StepBlock, pipeline.StepInserted, pipeline.StepPosition,
}

// Ensure that whenever the ingester is killed, the next one has every event in the table once, and every refused message in the dead letters once.
func TestKilledBetweenSteps(t *testing.T) {
	r := newRig(t)
	want, refused := 0, 0
	for _, step := range steps {
		t.Run(string(step), func(t *testing.T) {
			r.publish(t, 100, 20)
			want += 100
			r.refuse(t, 5)
			refused += 5
			victim := r.spawn(t, envStep+"="+string(step))
			if err := victim.Wait(); err == nil {
				t.Fatal("the ingester ended in order")
			}
			if ws := victim.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
				t.Fatalf("the ingester was not killed: %s", victim.ProcessState)
			}
			_, stop := r.serve(t, nil)
			r.wantRows(t, want, 20*time.Second)
			stop()
			r.wantDeadLetters(t, refused)
		})
	}
}

// Ensure that a process which is paused at any step, is replaced meanwhile, and wakes up adds nothing and loses nothing.
func TestPausedAndReplaced(t *testing.T) {
	r := newRig(t)
	want := 0
	for _, step := range steps {
		t.Run(string(step), func(t *testing.T) {
			r.publish(t, 100, 20)
			want += 100
			zombie := r.spawn(t, envStep+"="+string(step), envPause+"=1")
			waitStopped(t, zombie.Process.Pid)
			_, stop := r.serve(t, nil)
			// A paused process is dead to the others once its heartbeat is too old.
			r.wantRows(t, want, 20*time.Second)
			if err := syscall.Kill(zombie.Process.Pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			r.publish(t, 50, 20)
			want += 50
			r.wantRows(t, want, 20*time.Second)
			if err := syscall.Kill(zombie.Process.Pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := zombie.Wait(); err != nil {
				t.Errorf("the paused ingester did not end in order: %v", err)
			}
			stop()
			r.wantRows(t, want, 5*time.Second)
		})
	}
}
