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
#include <vector>

namespace regnet_kernels::cpu {

struct Phase {
  int tasks = 0;
  std::function<void(int task, int worker)> run;
};

// Calls body(worker) for worker = 0 .. workers-1, concurrently where it can; returns when all have returned.
using Fork = std::function<void(int workers, const std::function<void(int)>& body)>;

void run_phases(const std::vector<Phase>& phases, int workers, const Fork& fork);

}  // namespace regnet_kernels::cpu
