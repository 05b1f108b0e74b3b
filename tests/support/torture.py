"""Run gcc's own self-checking test programs as they are and in optvm's copies; every difference is a bug.

  torture.py FOLDER-OF-TESTSUITE WORK [--programs N] [--kinds a,b] [--ways a,b] [--combos N] [--size N] [--seed N] [--only NAME]

Each program is compiled, all its symbols but main are made local, and many of them are linked into one (batch.c), which runs each in a
child. One such batch is prepared once for each combination of compiler, -O and PIE/non-PIE/static, and then run
  rewrite  with every region copied into a new file
  counted  in instrumented copies from the first to the last instruction
  live     those that can be called again are, while `optvm run` samples, counts and patches; then all in children of that process
Programs whose result changes from run to run without optvm, or that do not end well then, are left out: they are no oracle. One that
differs is only reported if it does not vary without optvm either, with other values in its free memory and on its stack (unstable).
Only results with an oracle and of code that was replaced count: fewer than --least of all that could be are a failure, too.
"""
import argparse, collections, concurrent.futures, glob, itertools, json, os, random, re, shutil, subprocess, sys

HERE = os.path.dirname(os.path.abspath(__file__))
OPTVM = os.environ['OPTVM']
KINDS = {  # kind: (files, only those with `dg-do run`?, C++?)
    'execute': ('gcc.c-torture/execute/*.c', False, False),
    'ieee': ('gcc.c-torture/execute/ieee/*.c', False, False),
    'torture': ('gcc.dg/torture/*.c', True, False),
    'eh': ('g++.dg/eh/*.C', True, True),
    'cxx': ('g++.dg/torture/*.C', True, True),
}
COMBOS = list(itertools.product((('gcc', 'g++'), ('clang-14', 'clang++-14')), ('-O0', '-O1', '-O2', '-O3', '-Os'),
                                (('-fPIE', '-pie'), ('-fno-pie', '-no-pie'), ('-fno-pie', '-static'))))
Batch = collections.namedtuple('Batch', 'name combo sources is_cxx')

def run(words, seconds=60, **more):
    try:
        return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, text=True,
                              errors='replace', **more)
    except subprocess.TimeoutExpired as e:
        return subprocess.CompletedProcess(words, 124, (e.stdout or b'').decode(errors='replace'))

def options(path):
    """The words of dg-options and dg-additional-options that are meant for this target."""
    with open(path, errors='replace') as f:
        text = f.read()
    words = []
    for value, braced, target in re.findall(r'dg-(?:additional-)?options\s+(?:"([^"]*)"|\{([^}]*)\})\s*(\{.*)?', text):
        if not re.search(r'\btarget\b', target) or ('x86_64' in target and 'ia32' not in target):
            words += (value or braced).split()
    return words, text

def programs(suite, kind):
    pattern, only_run, _ = KINDS[kind]
    for path in sorted(glob.glob(os.path.join(suite, pattern))):
        if not only_run or re.search(r'dg-do\s+run', options(path)[1]):
            yield path

def build_one(batch, folder, i):
    """An object file whose one global symbol is optvm_test_<i>; None if this program cannot be built so."""
    source, (compilers, level, (pie, _)) = batch.sources[i], batch.combo
    words, text = options(source)
    obj = os.path.join(folder, '%d.o' % i)
    base = [compilers[1]] if batch.is_cxx else [compilers[0], '-std=gnu17']
    done = run(base + [level, pie, '-w', '-fno-lto'] + words + ['-c', source, '-o', obj])
    if done.returncode or not os.path.exists(obj):
        return None
    if batch.is_cxx:  # one a batch: groups of sections do not like local names
        change = ['--redefine-sym', 'main=optvm_test_%d' % i]
    else:
        change = ['--redefine-sym', 'main=optvm_test_%d' % i, '--keep-global-symbol=optvm_test_%d' % i]
    if run(['objcopy'] + change + [obj]).returncode:
        return None
    return obj if 'optvm_test_%d' % i in run(['nm', '--defined-only', obj]).stdout else None

def build(batch, folder, pool):
    """Link those that can be: returns the program's path, or None."""
    compilers, level, (pie, link) = batch.combo
    objects = list(pool.map(lambda i: build_one(batch, folder, i), range(len(batch.sources))))
    program = os.path.join(folder, 'batch')
    while True:
        kept = [i for i, obj in enumerate(objects) if obj]
        with open(os.path.join(folder, 'table.c'), 'w') as f:
            f.write('struct test { const char *name; int (*run)(int, char **, char **); };\n')
            f.writelines('int optvm_test_%d(int, char **, char **);\n' % i for i in kept)
            f.write('const struct test tests[] = {%s};\n' % ', '.join(
                '{"%s", optvm_test_%d}' % (os.path.basename(batch.sources[i]), i) for i in kept))
            f.write('const int n_tests = %d;\n' % len(kept))
        for source, name in ((HERE + '/batch.c', 'driver.o'), (folder + '/table.c', 'table.o')):
            done = run(['gcc', '-O1', '-w', pie, '-c', source, '-o', os.path.join(folder, name)])
        link_words = [compilers[1 if batch.is_cxx else 0], link, '-w', '-Wl,-z,noexecstack', '-Wl,--no-warn-mismatch', os.path.join(folder, 'driver.o'),
                      os.path.join(folder, 'table.o')] + [objects[i] for i in kept] + ['-o', program, '-lm', '-pthread']
        link_words.remove('-Wl,-z,noexecstack')  # nested functions want an executable stack
        done = run(link_words)
        if not kept:
            return None
        if done.returncode == 0:
            return program
        culprits = {int(x) for x in re.findall(r'/(\d+)\.o[:)]', done.stdout)}
        if not culprits & set(kept):
            print('note: %s does not link: %s' % (batch.name, done.stdout[-400:]))
            return None
        for i in culprits:
            objects[i] = None

def lines(text):
    """name -> status and output, of what batch.c prints; None for what is not of that form."""
    got = {}
    for line in text.splitlines():
        words = line.split(' ', 1)
        got.setdefault(words[0], words[1] if len(words) > 1 else '')
    return got

def compare(batch, way, want, done):
    """What differs, as a list of messages."""
    got, bad = lines(done.stdout), []
    for name in want:
        if got.get(name) != want[name]:
            bad.append('FAIL %s %s %s: %r, not %r; repeat: OPTVM_TORTURE_ONLY=%s OPTVM_TORTURE_COMBO="%s" tests/e2e/torture.sh' % (
                way, batch.name, name, got.get(name), want[name], name, combo_name(batch.combo)))
    if done.returncode:
        bad.append('FAIL %s %s: status %d: %s' % (way, batch.name, done.returncode, done.stdout[-300:]))
    return bad

def combo_name(combo):
    return ' '.join((combo[0][0], combo[1], combo[2][1]))

def unstable(words, want):
    """Those of `want` that vary without optvm, in runs that find other values in memory they never wrote; and do all such runs end well?"""
    names, ends_well = set(), True
    for k in range(RERUNS):
        done = run(words, 300, env=dict(os.environ, MALLOC_PERTURB_=str(k * 37 % 256), OPTVM_PAD='x' * (k * 997)))
        got = lines(done.stdout)
        names |= {name for name in want if got.get(name) != want[name]}
        ends_well = ends_well and done.returncode == 0
    return names, ends_well

def judge(batch, way, want, done, words):
    """What differs and is a bug, and the names of what varies without optvm, too, run by `words`."""
    bad = compare(batch, way, want, done)
    if not bad:
        return [], set()
    varies, ends_well = unstable(words, want)
    if done.returncode and not ends_well:  # so does the original
        return [], set(want)
    return compare(batch, way, {name: want[name] for name in want if name not in varies}, done), varies

def offline(batch, program, want):
    out = program + '.opt'
    done = run([OPTVM, 'rewrite', '-v', program, '--uniform', '-f', '-o', out], 300)
    if done.returncode:
        return Outcome(['FAIL rewrite %s: %s' % (batch.name, done.stdout)], 0, set(), '')
    bad, varies = judge(batch, 'rewrite', want, run([out, 'once'], 300), [program, 'once'])
    return Outcome(bad, len(want) - len(varies), varies, done.stdout.strip().splitlines()[-1].split(': ')[-1])

def counted(batch, program, want):
    prof = program + '.prof'
    done = run([OPTVM, 'record', '-q', '--counters=on', '--uniform', '-f', '-o', prof, '--', program, 'once'], 300)
    try:
        with open(prof) as f:
            edges = sum(line.startswith('e ') for line in f)
    except OSError:
        edges = 0
    bad, varies = judge(batch, 'counted', want, done, [program, 'once'])
    bad += [] if edges else ['FAIL counted %s: no counts' % batch.name]
    return Outcome(bad, len(want) - len(varies), varies, '%d edges counted' % edges)

def write_names(path, again):
    with open(path, 'w') as f:
        f.writelines('%s %s\n' % item for item in again.items())

def culprits(got, want):
    """Who ended the turns of those called again, and if nobody did: who differs."""
    return {name for name in got if got[name].endswith('when called again')} or {name for name in want if got.get(name) != want[name]}

def rehearse(program, names, again, want):
    """Drop, without optvm, what cannot be called again after all and what finds what an earlier call changed. A program that ends the turns
    and stays on the list would end them before optvm has a profile, each time."""
    dropped = set()
    for _ in range(REHEARSALS):
        write_names(names, again)
        new = culprits(lines(run([program, 'live', names, '600'], 300).stdout), want)
        for name in new:
            again.pop(name, None)
            want.pop(name, None)
        dropped |= new
        if not new:
            break
    return dropped

def live(batch, program, want):
    names, report, want = program + '.names', program + '.json', dict(want)
    again = {name: value for name, value in lines(run([program, 'calibrate'], 300).stdout).items() if name in want}
    dropped = rehearse(program, names, again, want)
    if not want:
        return Outcome([], 0, dropped, 'no oracle')
    bad, said = [], {}
    for counters, settled in (('auto', '800'), ('auto', '1600'), ('off', '3200'), ('off', '3200')):  # the tool may be slower than the program
        if os.path.exists(report):
            os.unlink(report)
        done = run([OPTVM, 'run', '-q', '--report', report, '--sample-ms', '300', '--counters=' + counters, '--uniform', '--only', '*/batch', '--',
                    program, 'live', names, '10000', settled], 300)
        bad, varies = judge(batch, 'live', want, done, [program, 'live', names, '1000'])
        try:
            with open(report) as f:
                said = json.load(f)
        except (OSError, ValueError):
            said = {}
        for name in varies:
            again.pop(name, None)
            want.pop(name, None)
        dropped |= varies
        write_names(names, again)
        if bad or not want or (said.get('optimized') and not varies):
            break
    note = '%s: %d called again; %s regions' % ('optimized' if said.get('optimized') else 'not optimized: %s' % said.get('why_not'), len(again), said.get('regions'))
    return Outcome(bad, len(want) if said.get('optimized') else len(bad), dropped, note)

RERUNS, REHEARSALS = 8, 10
WAYS = {'rewrite': offline, 'counted': counted, 'live': live}
# messages of failure; results with an oracle and of replaced code; names left out because they vary without optvm; what there is to say
Outcome = collections.namedtuple('Outcome', 'bad n_real dropped note')

def one(batch, folder, ways, pool):
    """way -> Outcome."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    program = build(batch, folder, pool)
    first, second = (lines(run([program, 'once'], 300).stdout) if program else {} for _ in range(2))
    want = {name: first[name] for name in first if first[name].startswith('exit 0 ') and second.get(name) == first[name]}
    got = {way: WAYS[way](batch, program, want) if want else Outcome([], 0, set(), 'nothing to run') for way in ways}
    if not any(outcome.bad for outcome in got.values()):
        shutil.rmtree(folder)
    return got

def totals(way, outcomes, n_possible, least):
    """Print the sum for one way; the list of what is wrong with it as a whole."""
    n_real, n_bad, n_dropped = sum(o.n_real for o in outcomes), sum(len(o.bad) for o in outcomes), sum(len(o.dropped) for o in outcomes)
    print('torture: %s: %d of %d possible results are real: %d equal, %d different; %d left out because they vary without optvm, too; '
          '%d others: not built, no oracle, or not optimized' % (way, n_real, n_possible, max(0, n_real - n_bad), n_bad, n_dropped,
                                                                n_possible - n_real - n_dropped))
    return [] if n_real and n_real >= n_possible * least else ['FAIL %s: only %d of %d results are real: at least %.0f %% must be' % (
        way, n_real, n_possible, least * 100)]

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('suite')
    parser.add_argument('work')
    parser.add_argument('--kinds', default='execute,ieee,torture')
    parser.add_argument('--programs', type=int, default=0, help='at most so many of all kinds, chosen by --seed; 0: all')
    parser.add_argument('--ways', default='rewrite,live')
    parser.add_argument('--combos', default='1', help='how many each batch is built with, one after another from a random one; or a name: gcc -O2 -pie')
    parser.add_argument('--size', type=int, default=50, help='programs in a batch')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--only', help='this program alone')
    parser.add_argument('--least', type=float, default=0.6, help='share of possible results that must be real, in each way')
    parser.add_argument('--jobs', type=int, default=2)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    batches, n_programs = [], 0
    everything = [(kind, path) for kind in args.kinds.split(',') for path in programs(args.suite, kind)]
    if args.only:
        everything = [(kind, path) for kind, path in everything if os.path.basename(path) == args.only]
    if args.programs and args.programs < len(everything):
        everything = sorted(chance.sample(everything, args.programs))
    named = [c for c in COMBOS if combo_name(c) == args.combos]
    for is_cxx in (False, True):
        paths = [path for kind, path in everything if KINDS[kind][2] == is_cxx]
        n_programs += len(paths)
        chance.shuffle(paths)  # programs of one name's family are not all built alike
        size = 1 if is_cxx else args.size
        for at in range(0, len(paths), size):
            start = chance.randrange(len(COMBOS))
            for k in range(1 if named else int(args.combos)):
                combo = named[0] if named else COMBOS[(start + k * 7) % len(COMBOS)]  # 7: another -O, another link at each step
                batches.append(Batch('%d: %s' % (len(batches), combo_name(combo)), combo, paths[at:at + size], is_cxx))
    ways, done = args.ways.split(','), []
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as outer, concurrent.futures.ThreadPoolExecutor(args.jobs) as inner:
        futures = {outer.submit(one, batch, os.path.join(args.work, str(i)), ways, inner): batch for i, batch in enumerate(batches)}
        for future in concurrent.futures.as_completed(futures):
            done.append(future.result())
            for way, outcome in done[-1].items():
                print('%s %s: %d real, %d different; %s' % (way, futures[future].name, outcome.n_real, len(outcome.bad), outcome.note))
                if outcome.dropped:
                    print('dropped, varies without optvm, too: %s' % ' '.join(sorted(outcome.dropped)))
                for line in outcome.bad:
                    print(line)
            sys.stdout.flush()
    print('torture: %d programs (seed %d) in %d batches' % (n_programs, args.seed, len(batches)))
    n_possible = sum(len(batch.sources) for batch in batches)
    wrong = [line for way in ways for line in totals(way, [got[way] for got in done], n_possible, args.least)]
    print('\n'.join(wrong), end='\n' if wrong else '')
    sys.exit(1 if wrong or any(outcome.bad for got in done for outcome in got.values()) else 0)

if __name__ == '__main__':
    main()
