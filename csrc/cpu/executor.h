// Runs a list of phases on several threads: the tasks of a phase are shared out, and no task of the next phase starts
// before all of them are done.
//
// One fork-join for the whole list, not one a phase: between phases the threads spin on a counter (well under a
// microsecond between two cores). A thread takes tasks from its own part of a phase first, so that it meets again the rows
// that it wrote a phase earlier, then helps the others. Nothing assumes that the threads really run at the same time: any
// number of them, even one after the other, drains the list.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace regnet_kernels::cpu {

enum class Work : int { load = 0, dense = 1, grouped = 2, winograd = 3, squeeze = 4, pool = 5, store = 6, strips = 7 };

// Weights that a worker reads first in a phase.
struct FirstWeights {
  const char* at = nullptr;
  int64_t bytes = 0;
};

// Work of one kind in a phase whose tasks do several: its nominal multiply-adds, and seconds of all workers together.
struct PhasePart {
  Work work;
  double macs, seconds;
};

// What the tasks of a phase do.
struct TaskBody {
  virtual ~TaskBody() = default;
  virtual void run(int task, int worker) const = 0;
  virtual FirstWeights first_weights(int) const { return {}; }
  // The phase of convolutions that comes next: its first weights can be fetched at the end of this one.
  virtual void set_next(const TaskBody*) {}
  // For the profile, of tasks of several kinds of work: the seconds since the call before; the first call begins to measure.
  virtual std::vector<PhasePart> take_parts() { return {}; }
};

struct Phase {
  int tasks = 0;
  std::unique_ptr<TaskBody> body;
  // for the profile: the step of the network that it belongs to, what it does, and its nominal multiply-adds
  Work work = Work::load;
  int step = 0;
  double macs = 0;
};

// Of a clock that never goes back.
double seconds_now();

// Calls body(worker) for worker = 0 .. workers-1, concurrently where it can; returns when all have returned.
using Fork = std::function<void(int workers, const std::function<void(int)>& body)>;

// `seconds`, if not null: one figure a phase, from the last task of the phase before it to its own last.
void run_phases(const std::vector<Phase>& phases, int workers, const Fork& fork, double* seconds = nullptr);

}  // namespace regnet_kernels::cpu
