// Runs containerd's own conformance suite for snapshotters over a Unix socket.
//
// STACKER_COMMAND is a shell command that starts a snapshotter with the root directory $1 and the
// socket $2. With STACKER_KILL=N, the harness kills the snapshotter before every Nth call,
// and starts it again.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

type daemon struct {
	root, socket string
	every        int
	mutex        sync.Mutex
	calls        int
	process      *exec.Cmd
	connection   *grpc.ClientConn
}

func (d *daemon) start() error {
	os.Remove(d.socket)
	d.process = exec.Command("/bin/sh", "-c", "exec "+os.Getenv("STACKER_COMMAND"), "sh", d.root, d.socket)
	d.process.Stderr = os.Stderr
	if err := d.process.Start(); err != nil {
		return err
	}
	for i := 0; i < 1000; i++ {
		if found, err := net.Dial("unix", d.socket); err == nil {
			found.Close()
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("no answer on %s", d.socket)
}

func (d *daemon) dial() (err error) {
	again := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond},
		MinConnectTimeout: time.Second,
	}
	d.connection, err = grpc.Dial("unix://"+d.socket, grpc.WithInsecure(), grpc.WithConnectParams(again),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)), grpc.WithUnaryInterceptor(d.intercept))
	return err
}

func (d *daemon) kill() {
	d.process.Process.Kill()
	d.process.Wait()
}

// before counts a call, and replaces the process before every Nth one.
func (d *daemon) before() error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.calls++
	if d.every == 0 || d.calls%d.every != 0 {
		return nil
	}
	d.kill()
	return d.start()
}

func (d *daemon) intercept(ctx context.Context, method string, args, reply interface{}, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := d.before(); err != nil {
		return err
	}
	return invoke(ctx, method, args, reply, connection, opts...)
}

func snapshotter(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	every, _ := strconv.Atoi(os.Getenv("STACKER_KILL"))
	d := &daemon{root: root, socket: filepath.Join(filepath.Dir(root), "socket"), every: every}
	if err := d.start(); err != nil {
		return nil, nil, err
	}
	if err := d.dial(); err != nil {
		return nil, nil, err
	}
	found := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(d.connection), "stacker")
	return found, func() error { d.connection.Close(); d.kill(); return nil }, nil
}

func TestSnapshotter(t *testing.T) {
	testsuite.SnapshotterSuite(t, "stacker", snapshotter)
}
