package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/pkg/events"
)

// Ensure what a power cut would take was never acknowledged: every event is flushed to the stream's file before its acknowledgement is sent, alone or in
// a batch, and every insert is flushed to the table's files before it is answered. Both are read off the servers' system calls.
func TestFlushedBeforeAcknowledged(t *testing.T) {
	s := startSystemWith(t, nil, func(o *stack.Options) { o.NATSChild = true })
	js, err := jetstream.New(s.nc)
	must(t, err)
	table := s.tableDir(t)
	stopNATS, stopClickHouse := startTrace(t, natsPID(t)), startTrace(t, s.ClickHousePID())

	var futures []*events.Future
	for _, size := range []int{1, events.MaxBatch} {
		pub, err := events.NewPublisher(s.nc, events.WithMaxBatch(size))
		must(t, err)
		for range 30 {
			f, err := pub.PublishAsync(t.Context(), newEvent(tenantA))
			must(t, err)
			futures = append(futures, f)
		}
		must(t, pub.Close(t.Context()))
		s.walkUntil(t, s.key(t, tenantA), tenantA, 1000, len(futures)) // so that there is more than one insert
	}
	seqs := map[string]uint64{}
	for _, f := range futures {
		ack, err := f.Wait(t.Context())
		must(t, err)
		seqs[f.ID().String()] = ack.Sequence
	}
	stream, err := js.Stream(t.Context(), events.StreamAudit)
	must(t, err)
	if n := stream.CachedInfo().State.Msgs; n != uint64(len(futures)) {
		t.Fatalf("%d messages in the stream, want %d", n, len(futures))
	}

	nats, clickhouse := stopNATS(), stopClickHouse()
	batches, faults := checkAcks(nats, seqs)
	for _, fault := range faults {
		t.Error("NATS: " + fault)
	}
	if batches == 0 {
		t.Error("no atomic batch was acknowledged")
	}
	inserts, faults := checkInserts(clickhouse, table)
	for _, fault := range faults {
		t.Error("ClickHouse: " + fault)
	}
	if inserts == 0 {
		t.Error("no insert was answered")
	}
	t.Logf("%d events, %d batches, %d inserts", len(seqs), batches, inserts)

	// The checks would have seen it: without its flushes, everything in either trace is a fault.
	without := func(calls []call) []call {
		return slices.DeleteFunc(slices.Clone(calls), func(c call) bool { return c.flushes() })
	}
	if _, faults := checkAcks(without(nats), seqs); len(faults) != len(seqs) {
		t.Errorf("without flushes %d of %d events are faults", len(faults), len(seqs))
	}
	if _, faults := checkInserts(without(clickhouse), table); len(faults) < inserts {
		t.Errorf("without flushes there are %d faults in %d inserts", len(faults), inserts)
	}
}

// natsPID is the process of the NATS that runs as a child of this one.
func natsPID(t *testing.T) int {
	t.Helper()
	for _, pid := range childrenOf(t, os.Getpid()) {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.HasPrefix(string(name), "auditlog-nats") {
			return pid
		}
	}
	t.Fatal("no NATS among the children")
	return 0
}

// tableDir is where ClickHouse keeps the parts of the event table.
func (s *system) tableDir(t *testing.T) string {
	t.Helper()
	db := s.sql(t)
	var paths []string
	must(t, db.QueryRow(t.Context(), "SELECT data_paths FROM system.tables WHERE database = 'audit' AND name = 'event_log'").Scan(&paths))
	if len(paths) != 1 {
		t.Fatalf("the event table is at %q", paths)
	}
	return filepath.Clean(paths[0]) + "/"
}

var pubAck = regexp.MustCompile(`\\"stream\\":\\"AUDIT\\",\\"seq\\":(\d+)(?:[^}]*\\"count\\":(\d+))?`)

// checkAcks returns how many batches were acknowledged, and for each event, given with its sequence, that was not on the disk before that a fault.
func checkAcks(calls []call, seqs map[string]uint64) (batches int, faults []string) {
	acked := map[uint64]*call{} // what told the publisher, by sequence
	for i := range calls {
		if !calls[i].sends() {
			continue
		}
		for _, m := range pubAck.FindAllStringSubmatch(calls[i].args, -1) {
			last, _ := strconv.ParseUint(m[1], 10, 64)
			count, _ := strconv.ParseUint(m[2], 10, 64)
			if count > 0 {
				batches++
			}
			for seq := last - max(count, 1) + 1; seq <= last; seq++ {
				acked[seq] = &calls[i]
			}
		}
	}
	for id, seq := range seqs {
		ack := acked[seq]
		stored := slices.IndexFunc(calls, func(c call) bool {
			return c.writes() && strings.Contains(c.file, "/streams/AUDIT/msgs/") && strings.HasSuffix(c.file, ".blk") && strings.Contains(c.args, id)
		})
		switch {
		case ack == nil:
			faults = append(faults, fmt.Sprintf("event %s: no acknowledgement of sequence %d in the trace", id, seq))
		case stored < 0:
			faults = append(faults, fmt.Sprintf("event %s: not written to the stream's file", id))
		case !flushed(calls, calls[stored].file, calls[stored].end, ack.begin):
			faults = append(faults, fmt.Sprintf("event %s: sequence %d was acknowledged before it was flushed", id, seq))
		}
	}
	return batches, faults
}

var renamed = regexp.MustCompile(`"([^"]+)", (?:[^"]*, )?"([^"]+)"`)

// checkInserts returns how many inserts into the table were answered, and what of their parts was not on the disk by then.
func checkInserts(calls []call, table string) (inserts int, faults []string) {
	for i := range calls {
		insert := &calls[i]
		if !isInsert(insert) {
			continue
		}
		inserts++
		answer := answerTo(calls, insert)
		if answer == nil {
			faults = append(faults, "an insert has no answer in the trace")
			continue
		}
		parts := 0
		for _, c := range calls {
			m := renamed.FindStringSubmatch(c.args)
			if !strings.HasPrefix(c.name, "rename") || c.failed || c.begin < insert.begin || c.end > answer.begin || m == nil {
				continue
			}
			if from := strings.TrimSuffix(m[1], "/"); strings.HasPrefix(from, table+"tmp_insert_") {
				parts++
				faults = append(faults, checkPart(calls, from, strings.TrimSuffix(m[2], "/"), insert.begin, answer.begin)...)
			}
		}
		if parts == 0 {
			faults = append(faults, "an insert was answered before its part was there")
		}
	}
	return inserts, faults
}

// endOfStream is how ClickHouse's native protocol ends an answer: a packet of one byte, the last of what is sent.
const endOfStream = `\5", `

// answerTo is what ends the answer to an insert, on its connection and before the next insert there.
func answerTo(calls []call, insert *call) (answer *call) {
	for i := range calls {
		c := &calls[i]
		if c.file != insert.file || c.begin <= insert.begin {
			continue
		}
		if isInsert(c) {
			break
		}
		if c.sends() && strings.Contains(c.args, endOfStream) {
			answer = c
		}
	}
	return answer
}

func isInsert(c *call) bool {
	return c.name == "recvfrom" && strings.Contains(c.args, "INSERT INTO") && strings.Contains(c.args, "event_log")
}

// checkPart looks whether each file of a part that was written under the name tmp, and the folder under its final name, were flushed before the answer.
func checkPart(calls []call, tmp, part string, from, until int) (faults []string) {
	last := map[string]int{} // file → the end of its last write
	folder := false
	for _, c := range calls {
		if c.begin < from || c.begin > until {
			continue
		}
		if c.writes() && strings.HasPrefix(c.file, tmp+"/") {
			last[c.file] = c.end
		}
		folder = folder || c.file == part && c.flushes() && c.end < until
	}
	if !folder {
		faults = append(faults, "folder of "+filepath.Base(part)+" was not flushed before the answer")
	}
	if len(last) == 0 {
		faults = append(faults, "no file of "+filepath.Base(part)+" was written")
	}
	for file, end := range last {
		if !flushed(calls, file, end, until) && !flushed(calls, part+strings.TrimPrefix(file, tmp), end, until) {
			faults = append(faults, filepath.Base(file)+" of "+filepath.Base(part)+" was not flushed before the answer")
		}
	}
	return faults
}
