package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/pkg/service/natsconn"
	"example.com/auditlog/services/ingester/internal/scan"
)

// deadLetter is a message of the stream AUDIT_DLQ.
type deadLetter struct {
	// Seq is its sequence there: what the commands call it by.
	Seq uint64 `json:"seq"`
	// StreamSeq is the sequence it had in the stream of events.
	StreamSeq uint64 `json:"stream_seq"`
	Tenant    string `json:"tenant"`
	Error     string `json:"error"`
	Fields    string `json:"fields"`
	Received  string `json:"received"`
	Refused   string `json:"refused"`
	Bytes     int    `json:"bytes"`

	data []byte
}

func newDeadLetter(subject string, seq uint64, header nats.Header, data []byte) deadLetter {
	streamSeq, _ := strconv.ParseUint(header.Get(events.HeaderSequence), 10, 64) // 0 for one that somebody else put there
	return deadLetter{
		Seq: seq, StreamSeq: streamSeq, Tenant: subject[strings.LastIndexByte(subject, '.')+1:],
		Error: header.Get(events.HeaderError), Fields: header.Get(events.HeaderField),
		Received: header.Get(events.HeaderReceived), Refused: header.Get(events.HeaderRefused),
		Bytes: len(data), data: data,
	}
}

// deadLetters is the stream of dead letters, for one command.
type deadLetters struct {
	nc     *nats.Conn
	js     natsjs.JetStream
	stream natsjs.Stream
}

func (c *commands) openDeadLetters(ctx context.Context) (*deadLetters, error) {
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewJSONHandler(c.stderr, &slog.HandlerOptions{Level: max(cfg.LogLevel, slog.LevelWarn)}))
	nc, err := natsconn.Connect(cfg.NATS, "ingester dlq", log)
	if err != nil {
		return nil, err
	}
	js, err := natsjs.New(nc)
	if err == nil {
		var stream natsjs.Stream
		if stream, err = js.Stream(ctx, events.StreamDLQ); err == nil {
			return &deadLetters{nc: nc, js: js, stream: stream}, nil
		}
	}
	nc.Close()
	return nil, fmt.Errorf("open stream %s: %w", events.StreamDLQ, err)
}

// walk calls fn for each dead letter that is there, oldest first, of one tenant unless tenant is empty.
func (d *deadLetters) walk(ctx context.Context, tenant string, fn func(deadLetter) error) error {
	subject := events.SubjectDLQ
	if tenant != "" {
		subject = strings.TrimSuffix(events.SubjectDLQ, "*") + tenant
	}
	of := scan.Range{Stream: events.StreamDLQ, Subject: subject, Last: math.MaxUint64}
	return scan.Walk(ctx, d.js, of, func(m natsjs.Msg, meta *natsjs.MsgMetadata) error {
		return fn(newDeadLetter(m.Subject(), meta.Sequence.Stream, m.Headers(), m.Data()))
	})
}

func (d *deadLetters) get(ctx context.Context, arg string) (deadLetter, error) {
	seq, err := strconv.ParseUint(arg, 10, 64)
	if err != nil || seq == 0 {
		return deadLetter{}, usageError{fmt.Errorf("%q is not a dead letter's number; `ingester dlq list` shows them", arg)}
	}
	m, err := d.stream.GetMsg(ctx, seq)
	if errors.Is(err, natsjs.ErrMsgNotFound) {
		return deadLetter{}, fmt.Errorf("there is no dead letter %d", seq)
	}
	if err != nil {
		return deadLetter{}, fmt.Errorf("read dead letter %d: %w", seq, err)
	}
	return newDeadLetter(m.Subject, m.Sequence, m.Header, m.Data), nil
}

func (c *commands) dlq() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "List, show and replay messages that were refused",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("say list, show or replay; --help tells more")}
		},
	}
	cmd.AddCommand(c.dlqList(), c.dlqShow(), c.dlqReplay())
	return cmd
}

// alignedLines is how many lines of a list are held back to align their columns: there may be any number of dead letters.
const alignedLines = 1000

func (c *commands) dlqList() *cobra.Command {
	var tenant string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, oldest first",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := c.openDeadLetters(cmd.Context())
			if err != nil {
				return err
			}
			defer d.nc.Close()
			if asJSON {
				enc := json.NewEncoder(c.stdout)
				return d.walk(cmd.Context(), tenant, func(l deadLetter) error { return enc.Encode(l) })
			}
			w := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
			_, _ = fmt.Fprintln(w, "SEQ\tTENANT\tRECEIVED\tBYTES\tERROR")
			lines := 0
			err = d.walk(cmd.Context(), tenant, func(l deadLetter) error {
				_, err := fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%s\n", l.Seq, visible(l.Tenant, ""), visible(l.Received, ""), l.Bytes, visible(l.Error, ""))
				if lines++; err == nil && lines%alignedLines == 0 {
					err = w.Flush()
				}
				return err
			})
			if lines == 0 && err == nil && tenant != "" {
				_, err = fmt.Fprintf(c.stderr, "no dead letters of %q: the tenant is the last token of their subject\n", tenant)
			}
			return errors.Join(err, w.Flush())
		},
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "only those of this tenant (last token of the subject)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return cmd
}

func (c *commands) dlqShow() *cobra.Command {
	var raw bool
	cmd := &cobra.Command{
		Use:   "show SEQ",
		Short: "Show a dead letter: why, when, from where, and its bytes",
		Long: "Shows a dead letter: why it was refused, when, from where, and its bytes, of which those that a terminal would act on are written as\n" +
			"escapes; --raw gives them exactly as they came.",
		Args: usage(func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("name one dead letter by its number; `ingester dlq list` shows them")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := c.openDeadLetters(cmd.Context())
			if err != nil {
				return err
			}
			defer d.nc.Close()
			l, err := d.get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if raw {
				_, err = c.stdout.Write(l.data)
				return err
			}
			return l.print(c.stdout)
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "only the bytes, exactly as they came")
	return cmd
}

// print writes what is known about the letter, then an empty line, then its bytes.
func (l deadLetter) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "seq:        %d\nstream seq: %d\ntenant:     %s\nreceived:   %s\nrefused:    %s\nfields:     %s\nerror:      %s\nbytes:      %d\n\n%s\n",
		l.Seq, l.StreamSeq, visible(l.Tenant, ""), visible(l.Received, ""), visible(l.Refused, ""), visible(l.Fields, ""), visible(l.Error, ""), l.Bytes,
		visible(string(l.data), "\n\t"))
	return err
}

// visible is a text with every character that a terminal would act on, except those in keep, and every byte that is no UTF-8 written as an escape: what
// somebody has sent to be refused must not act on the terminal of whoever looks at it.
func visible(text, keep string) string {
	var out strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1:
			_, _ = fmt.Fprintf(&out, `\x%02x`, text[0])
		case unicode.IsPrint(r) || strings.ContainsRune(keep, r):
			out.WriteString(text[:n])
		default:
			quoted := strconv.QuoteRune(r)
			out.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[n:]
	}
	return out.String()
}

// verdict says why the letter would be refused again by this program, or nil.
func (l deadLetter) verdict(now time.Time) error {
	_, tenant, err := events.ParseLogSubject("audit.log.0." + l.Tenant)
	if err != nil {
		return errors.New("subject: the last token is not a tenant's UUID in lower case")
	}
	var decoder events.Decoder
	var into events.Raw
	return decoder.Decode(l.data, tenant, now, &into)
}

func (c *commands) dlqReplay() *cobra.Command {
	var tenant string
	var all, force bool
	cmd := &cobra.Command{
		Use:   "replay SEQ... | --all [--tenant T]",
		Short: "Publish dead letters again, bytes untouched",
		Long: "Publishes dead letters to the subject they came on, bytes untouched, for a new verdict: for those that a newer version accepts, or that\n" +
			"were refused for a clock that was wrong. What this version would refuse again is left alone unless --force. The dead letter stays\n" +
			"as the record of what was refused; replaying it twice changes nothing, the event's identity is its own.",
		Args: usage(func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("name dead letters by number, or --all")
			}
			if tenant != "" && !all {
				return errors.New("--tenant goes with --all")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := c.openDeadLetters(cmd.Context())
			if err != nil {
				return err
			}
			defer d.nc.Close()
			r := replaying{deadLetters: d, force: force, out: c.stdout}
			if all {
				err = d.walk(cmd.Context(), tenant, func(l deadLetter) error { return r.one(cmd.Context(), l) })
			}
			for _, arg := range args {
				l, gerr := d.get(cmd.Context(), arg)
				if gerr == nil {
					gerr = r.one(cmd.Context(), l)
				}
				if gerr != nil {
					err = gerr
					break
				}
			}
			_, _ = fmt.Fprintf(c.stdout, "%d replayed, %d left alone\n", r.replayed, r.left)
			if err == nil && r.left > 0 && !all {
				return errors.New("some would be refused again; --force replays them all the same")
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all dead letters")
	cmd.Flags().StringVar(&tenant, "tenant", "", "with --all: only those of this tenant")
	cmd.Flags().BoolVar(&force, "force", false, "also what would be refused again")
	return cmd
}

// replaying counts what a replay does.
type replaying struct {
	*deadLetters
	force          bool
	out            io.Writer
	replayed, left int
}

func (r *replaying) one(ctx context.Context, l deadLetter) error {
	if err := l.verdict(time.Now()); err != nil && !r.force {
		r.left++
		_, werr := fmt.Fprintf(r.out, "%d: left alone, would be refused again: %s\n", l.Seq, visible(err.Error(), ""))
		return werr
	}
	msg := nats.NewMsg(strings.TrimSuffix(events.SubjectEvents, "*") + l.Tenant)
	msg.Data = l.data
	// Within the stream's window a second replay is folded at once.
	ack, err := r.js.PublishMsg(ctx, msg, natsjs.WithMsgID("dlq-"+strconv.FormatUint(l.Seq, 10)), natsjs.WithExpectStream(events.StreamAudit))
	if err != nil {
		return fmt.Errorf("replay dead letter %d: %w", l.Seq, err)
	}
	r.replayed++
	_, err = fmt.Fprintf(r.out, "%d: replayed as sequence %d\n", l.Seq, ack.Sequence)
	return err
}
