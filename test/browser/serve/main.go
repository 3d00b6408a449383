// Serve runs the pages over the fake regions of package fakedev: for work on the pages alone, without building or
// starting anything else. The web files are read from the folder given with -web, so that a reload shows a change.
//
//	go run ./test/browser/serve -web web
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/console"
	"github.com/antipode-im/antipode/test/browser/fakedev"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:7499", "host:port of the pages")
	folder := flag.String("web", "", "folder of the web files; empty: the embedded ones")
	chatter := flag.Bool("chatter", false, "let users talk by themselves")
	flag.Parse()
	if err := run(*listen, *folder, *chatter); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func run(listen, folder string, chatter bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	world := fakedev.New(40*time.Millisecond, "eu", "us", "ap")
	if err := world.Start(ctx); err != nil {
		return err
	}
	cfg := console.Config{}
	if folder != "" {
		cfg.Files = os.DirFS(folder)
	}
	handler, err := world.HandlerWith(cfg)
	if err != nil {
		return err
	}
	if chatter {
		go talk(ctx, world)
	}
	server := &http.Server{Addr: listen, Handler: handler}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	fmt.Println("http://" + listen + "/  http://" + listen + "/console")
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	world.Wait()
	return nil
}

// talk keeps a few conversations going.
func talk(ctx context.Context, world *fakedev.World) {
	lines := []struct {
		region im.Region
		uid    im.UID
		other  im.UID
		text   string
	}{
		{"us", "bob", "ann", "The ap link recovered at 14:02, lag is back under a second."},
		{"ap", "cho", "ann", "Seen. Draining gateway 2 before the upgrade."},
		{"eu", "dee", "ann", "Lunch?"},
		{"us", "bob", "cho", "Thanks!"},
		{"eu", "ann", "bob", "Looks good from here."},
	}
	for i := 0; ; i++ {
		l := lines[i%len(lines)]
		_, _ = world.Say(l.region, l.uid, string(im.Direct(l.uid, l.other)), l.text)
		select {
		case <-ctx.Done():
			return
		case <-time.After(400 * time.Millisecond):
		}
	}
}
