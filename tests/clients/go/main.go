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

const records = 20000

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
	created, err := admin.CreateTopic(ctx, 4, 1, nil, topic)
	check(err)
	check(created.Err)

	var failed error
	for n := 0; n < records; n++ {
		record := &kgo.Record{Topic: topic, Key: []byte(strconv.Itoa(n % 31)), Value: []byte(strconv.Itoa(n))}
		producer.Produce(ctx, record, func(_ *kgo.Record, err error) {
			if err != nil {
				failed = err
			}
		})
	}
	check(producer.Flush(ctx))
	check(failed)

	var lock sync.Mutex
	seen := map[string]bool{}
	last := map[string]int{}
	reading, done := context.WithCancel(ctx)
	var members sync.WaitGroup
	for m := 0; m < 2; m++ {
		members.Add(1)
		consumer := client(kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.BlockRebalanceOnPoll())
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
	}
	members.Wait()
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
