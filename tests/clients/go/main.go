// main BOOTSTRAP TOPIC GROUP: producer, cooperative group and admin of franz-go.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	records    = 20000
	partitions = 4
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func client(options ...kgo.Opt) *kgo.Client {
	c, err := kgo.NewClient(append(options, kgo.SeedBrokers(os.Args[1]))...)
	check(err)
	return c
}

func main() {
	topic, group := os.Args[2], os.Args[3]
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	producer := client(kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	defer producer.Close()
	admin := kadm.NewClient(producer)
	created, err := admin.CreateTopic(ctx, partitions, 1, nil, topic)
	check(err)
	check(created.Err)

	produce := func(from, to int) {
		var failed error
		for n := from; n < to; n++ {
			record := &kgo.Record{Topic: topic, Key: []byte(strconv.Itoa(n % 31)), Value: []byte(strconv.Itoa(n))}
			producer.Produce(ctx, record, func(_ *kgo.Record, err error) {
				if err != nil {
					failed = err
				}
			})
		}
		check(producer.Flush(ctx))
		check(failed)
	}

	var lock sync.Mutex
	seen := map[string]bool{}
	last := map[string]int{}
	owned := [2]map[int32]bool{{}, {}} // by each member, as its callbacks tell it
	var moved []int32                  // what the first member gave up
	var later [2]int                   // read by each member of the second half
	reading, done := context.WithCancel(ctx)
	var members sync.WaitGroup
	join := func(m int, balanced func() bool) {
		reached, balance := context.WithCancel(ctx)
		assigned := func(_ context.Context, _ *kgo.Client, given map[string][]int32) {
			lock.Lock()
			defer lock.Unlock()
			for _, partition := range given[topic] {
				owned[m][partition] = true
			}
			if balanced() {
				balance()
			}
		}
		revoked := func(_ context.Context, _ *kgo.Client, taken map[string][]int32) {
			lock.Lock()
			defer lock.Unlock()
			if reading.Err() != nil {
				return // it leaves
			}
			if m != 0 && len(taken[topic]) > 0 {
				check(fmt.Errorf("the second member loses %v", taken[topic]))
			}
			for _, partition := range taken[topic] {
				delete(owned[m], partition)
				moved = append(moved, partition)
			}
		}
		lost := func(_ context.Context, _ *kgo.Client, taken map[string][]int32) {
			check(fmt.Errorf("member %d lost %v", m, taken))
		}
		consumer := client(kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.Balancers(kgo.CooperativeStickyBalancer()),
			kgo.BlockRebalanceOnPoll(), kgo.HeartbeatInterval(500*time.Millisecond), kgo.OnPartitionsAssigned(assigned), kgo.OnPartitionsRevoked(revoked), kgo.OnPartitionsLost(lost))
		members.Add(1)
		go func() {
			defer members.Done()
			defer consumer.CloseAllowingRebalance()
			for reading.Err() == nil {
				fetches := consumer.PollFetches(reading)
				if reading.Err() == nil {
					fetches.EachError(func(_ string, _ int32, err error) { check(err) })
				}
				lock.Lock()
				fetches.EachRecord(func(r *kgo.Record) {
					value, err := strconv.Atoi(string(r.Value))
					check(err)
					position := fmt.Sprintf("%d:%d", r.Partition, r.Offset)
					if !seen[position] {
						seen[position] = true
						if before, ok := last[string(r.Key)]; ok && before >= value {
							check(fmt.Errorf("key %s: %d behind %d", r.Key, value, before))
						}
						last[string(r.Key)] = value
					}
					if value >= records/2 {
						later[m]++
					}
				})
				complete := len(seen) == records
				lock.Unlock()
				check(consumer.CommitUncommittedOffsets(ctx))
				consumer.AllowRebalance()
				if complete {
					done()
				}
			}
		}()
		<-reached.Done()
		check(ctx.Err())
	}
	// The first has all; the second takes half of them from it, the other half is never taken.
	produce(0, records/2)
	join(0, func() bool { return len(owned[0]) == partitions })
	join(1, func() bool { return len(owned[1]) == partitions/2 })
	lock.Lock()
	if len(moved) != partitions/2 || len(owned[0]) != partitions/2 {
		check(fmt.Errorf("%v moved, %v stayed", moved, owned[0]))
	}
	for _, partition := range moved {
		if !owned[1][partition] {
			check(fmt.Errorf("%v moved to %v", moved, owned[1]))
		}
	}
	lock.Unlock()
	produce(records/2, records)
	members.Wait()
	if later[0] == 0 || later[1] == 0 {
		check(fmt.Errorf("of the second half the members read %v", later))
	}
	if len(seen) != records {
		check(fmt.Errorf("%d of %d read", len(seen), records))
	}
	lags, err := admin.Lag(ctx, group)
	check(err)
	check(lags.Error())
	if total := lags[group].Lag.Total(); total != 0 {
		check(fmt.Errorf("lag %d behind everything", total))
	}
	_, err = admin.DeleteGroups(ctx, group)
	check(err)
	_, err = admin.DeleteTopics(ctx, topic)
	check(err)
	fmt.Println("ok")
}
