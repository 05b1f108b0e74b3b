#ifndef OVM_RUNTIME_TUNABLES_H
#define OVM_RUNTIME_TUNABLES_H
/* The constants of a live session, with what they were chosen by. */

enum {
	OVM_RT_SAMPLE_MS = 1500, /* CPU time of the program to sample: some 6000 samples at 4 kHz,
				    patch in by 3 s */
	OVM_RT_FREQUENCY =
	    3989, /* Hz; four times what `record` takes, because there is so little time */
	OVM_RT_FREQUENCY_LATER = 997, /* while copies to count in are built: 4 kHz cost a program 16 %
					 (clang, by perf record), and most is known by then */
	OVM_RT_SAMPLE_GIVE_UP =
	    4, /* times that: a program with few samples by then runs in the kernel */
	OVM_RT_DRAIN_MS =
	    50, /* between two drains of the sampler; its rings hold 100 ms and more */
	OVM_RT_MIN_SAMPLES = 300, /* of all modules: fewer say nothing about blocks */
	OVM_RT_MIN_MODULE_SAMPLES = 100,
	OVM_RT_MODULE_SHARE = 50, /* a module with less than 1/50 of the samples is left alone */
	OVM_RT_MAX_MODULES = 12,
	OVM_RT_ROOM_EXTRA = 6 << 20, /* bytes of address space reserved beyond twice the code */
	OVM_RT_HUGE_PERCENT = 60, /* of the last huge page of an overlay must be filled, or that has
				     small ones: at most 0.8 MiB is wasted, behind 2 MiB at least */
	/* counting (counting.c): a window costs at most as much again as it lasts, so one of 80 ms
	 * in 2 s is 2 % with its pauses */
	OVM_RT_COUNT_AFTER_MS = 700, /* CPU time sampled before the first instrumented copies */
	OVM_RT_RUN_SAMPLE_MS = 500,  /* the same for `run` and `attach` */
	OVM_RT_COUNT_NEXT_MS = 50,   /* the same for the next process of a recording */
	OVM_RT_COUNT_KNOWN = 1500,   /* samples of a recording: any process counts as a next one */
	OVM_RT_COUNT_GROWTH = 140,   /* percent of the samples of one build, then the next */
	OVM_RT_COUNT_STEP_MS = 5,
	OVM_RT_WINDOW_FIRST_LOOK_MS = 10,
	OVM_RT_WINDOW_MIN_MS = 35,
	OVM_RT_WINDOW_SHORT_MS = 75, /* several windows: no longer than this */
	OVM_RT_WINDOW_MS = 200,	     /* a single one */
	OVM_RT_WINDOW_REST_MS = 300, /* at least */
	OVM_RT_WINDOW_FREE_MS = 250, /* armed in the beginning, and then */
	OVM_RT_WINDOW_PERCENT = 3,   /* of the time */
	OVM_RT_WINDOW_HOTTEST = 1000000,
	OVM_RT_FORKS_MS = 2000,
	OVM_RT_COUNTERS_SHARE = 2,  /* counters get half as much room as code; they need a fifth */
	OVM_RT_START_CALLS = 20000, /* system calls of ld.so until a program starts; 12 a library */
	OVM_RT_NEXT_EXEC_MS = 1000, /* how long env, setarch or a shell may take to exec it */
	OVM_RT_REMOTE_MS = 3000,    /* waiting for a thread that runs user code; after 1/10 of that
				       one that waits in a system call will do */
	OVM_RT_REMOTE_WAITING = 10,
	OVM_RT_MAX_PAUSE_MS =
	    100, /* all threads must have stopped by then; 200 running ones take 50 on 2 CPUs */
	OVM_RT_STACK_SCAN = 8 << 20, /* bytes of each stack to look for returns into copies; 8 MiB
				      take 5 ms */
	OVM_RT_STOP_ATTEMPTS = 5,
	OVM_RT_RETRY_MS = 200,	   /* after an attempt that did not stop everybody (vfork, disk) */
	OVM_RT_PENDING_MS = 3000,  /* a thread that does not report at all: no more attempts */
	OVM_RT_SHARER_TRIES = 200, /* 5 ms apart: a vfork child is soon gone */
	OVM_RT_LOCK_TRIES = 100,   /* 10 ms apart: another optvm is at work on the process */
	OVM_RT_MAX_GENERATIONS = 16,  /* in one process, counting ones too: they stay for ever */
	OVM_RT_ATTACH_MS = 30000,     /* a process that hardly computes is sampled for so long */
	OVM_RT_FOLLOW_AFTER_MS = 500, /* CPU time before a process of the tree is looked at */
	OVM_RT_FOLLOW_LOOK_MS = 100,  /* between two looks at the tree */
	OVM_RT_FOLLOW_MS = 5000,      /* one that hardly computes any more keeps others waiting */
	OVM_RT_ROUND_PAYS = 6,	      /* times the CPU time of the last round of ours: so much
					 must the process have used until the next one. With 2 a
					 compiler of 21 s had a round in each of its three phases:
					 8.6 s of ours in place of 3.2 s, and it was no faster;
					 without waiting where a processor is idle, clang of 20
					 to 25 s was covered by 0.9 and took 0.90 to 1.23 */
	OVM_RT_ROUNDS = 4,	      /* of `run`; each makes up to 3 of the generations */
	OVM_RT_MAX_ROUNDS = 5,
	OVM_RT_WATCH_SAMPLES = 500,  /* of one window between rounds */
	OVM_RT_WATCH_PART = 8,	     /* it lasts 1/8 of the CPU time used so far, */
	OVM_RT_WATCH_MIN_MS = 1000,  /* at least (499 Hz: 1 % at 20 us a sample), */
	OVM_RT_WATCH_MAX_MS = 10000, /* at most */
	OVM_RT_WATCH_STEP_MS = 250,
	OVM_RT_KIN_MS = 200,	     /* between two looks at the CPU time of forked processes */
	OVM_RT_IDLE_REMOTE_MS = 300, /* as OVM_RT_REMOTE_MS, for a forked process that was idle */
	OVM_RT_SERVICE_MS = 5,	     /* while one is in that state: how often to look */
	/* measuring (measure.c) */
	OVM_RT_GAUGES = 64,
	OVM_RT_GAUGE_MIN = 500,	   /* entries a second */
	OVM_RT_GAUGE_GOOD = 20000, /* these are preferred */
	OVM_RT_GAUGE_MAX = 200000,
	OVM_RT_GAUGE_SUM = 500000,     /* of all gauges: 0.1 % of the time */
	OVM_RT_MEASURE_COUNTS = 10,    /* in a window; a gauge with fewer has no opinion */
	OVM_RT_MEASURE_WINDOW_MS = 20, /* of CPU time; at least */
	OVM_RT_MEASURE_PAUSES = 4,     /* and so many times the pause of a switch */
	OVM_RT_MEASURE_WARM_MS = 3,    /* behind a switch */
	OVM_RT_MEASURE_STEP_MS = 1,
	OVM_RT_MEASURE_MS = 10000, /* a process that hardly computes: no longer */
	OVM_RT_MEASURE_SHARE = 8,  /* of the CPU time a process has used: an eighth, no longer */
	OVM_RT_MEASURE_METRIC_WINDOW_MS = 500, /* by the clock */
	OVM_RT_MEASURE_METRIC_MS = 90000,
};

#define OVM_RT_MEASURE_ERROR 0.025 /* the chance that something harmless is undone */
#define OVM_RT_MEASURE_LOSS 0.01   /* that much slower: undone */
/* what is believed before measuring, where nothing is known of the footprint: README's table has
 * ratios of 0.91 to 1.03; live it is less: half of what the footprint promises for written files */
#define OVM_RT_MEASURE_PRIOR ((struct ovm_belief){-0.03, 0.05})
#define OVM_RT_MEASURE_LIVE 0.5
#define OVM_RT_MEASURE_KEEP 0.10 /* a smaller chance that it is slower: kept, measured no more */
#define OVM_RT_WATCH_DRIFT 0.30	 /* by chance 0.05 to 0.2 with that many samples */
#define OVM_RT_WATCH_OUTSIDE 0.10
#define OVM_RT_WATCH_FAR 0.30	  /* no second window is waited for */
#define OVM_RT_COUNT_OUTSIDE 0.03 /* more of the samples outside copies than before: build */
#define OVM_RT_WINDOW_CHANGE 0.05 /* halves of a window differ by less: it has learned enough */

#endif
