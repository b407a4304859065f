package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

// positionBucket is where the ingester says how far it has come: a feed shows nothing beyond it.
const positionBucket = "audit_positions"

// position stands for the ingester, which has not seen the events that load put into the table.
type position struct {
	nc *nats.Conn
	kv jetstream.KeyValue
}

func openPosition(ctx context.Context, e *engines) (*position, error) {
	nc, err := nats.Connect(e.natsURL())
	if err != nil {
		return nil, err
	}
	p := &position{nc: nc}
	js, err := jetstream.New(nc)
	if err == nil {
		p.kv, err = js.KeyValue(ctx, positionBucket)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("open the ingester's positions: %w", err)
	}
	return p, nil
}

// set says that everything of the loaded tenant's partition is in the table up to seq.
func (p *position) set(ctx context.Context, seq int) error {
	_, err := p.kv.Put(ctx, strconv.Itoa(events.Partition(loadTenant, loadPartitions)), []byte(fmt.Sprintf(`{"last_seq":%d}`, seq)))
	return err
}

// Close ends the connection.
func (p *position) Close() { p.nc.Close() }

// feedCursors are cursors of the middle of the feed and of the last events before its end, where the position is afterwards.
func feedCursors(ctx context.Context, api *apiReader, p *position, total int) ([]string, error) {
	var cursors []string
	for _, seq := range []int{total / 2, total - 80} {
		if err := p.set(ctx, seq); err != nil {
			return nil, err
		}
		body, err := api.get(ctx, "/feed?start=now")
		if err != nil {
			return nil, err
		}
		var page struct {
			Next string `json:"next_cursor"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return nil, err
		}
		cursors = append(cursors, page.Next)
	}
	return cursors, p.set(ctx, total)
}

// rememberedCursors are those that an earlier run left in dir, or new ones.
func (a *apiReader) rememberedCursors(ctx context.Context, dir string, depths []int) (found map[int]string, err error) {
	if dir == "" {
		return a.cursors(ctx, depths)
	}
	name := filepath.Join(dir, "cursors.json")
	if text, err := os.ReadFile(name); err == nil {
		return found, json.Unmarshal(text, &found)
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if found, err = a.cursors(ctx, depths); err != nil {
		return nil, err
	}
	text, err := json.Marshal(found)
	if err != nil {
		return nil, err
	}
	return found, os.WriteFile(name, text, 0o600)
}
